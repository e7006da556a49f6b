"""The subcommands of ``asr``, by what they are about: parse, call one library function, print."""
