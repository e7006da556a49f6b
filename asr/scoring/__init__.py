"""What is made of errors: intervals, tables, comparisons, pages, and the formats of NIST's tools."""
