"""Language models of the `transformers` library: text models as a start (TWIST), and unit language models in its format."""
