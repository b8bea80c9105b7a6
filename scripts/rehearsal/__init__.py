"""The card path without a card: the parts of card_rehearsal.py, and of the tests that use them."""
