"""GSLM's published unit language models, read from fairseq's files."""
