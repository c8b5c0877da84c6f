"""A pretrained language model, texts of two kinds, and adapters that learn one of them."""
