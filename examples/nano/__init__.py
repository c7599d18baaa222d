"""The pictures, questions and recipe behind the nano model: `train_nano.py` and `evaluate.py` run them."""
