"""The pictures, questions and recipe behind the nano-vl2 model: `train_nano_vl2.py` and `evaluate_vl2.py` run them."""
