"""Models of the Hugging Face hub that write text with CTC; loaded only for a MODEL named ``hf:…``."""
