"""Language models of `transformers`: text models as a start (TWIST), and unit language models in its format."""
