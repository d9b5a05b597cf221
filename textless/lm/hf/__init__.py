"""Language models of transformers': text models that go on with units (TWIST), and ours in their form."""
