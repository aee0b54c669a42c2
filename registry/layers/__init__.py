"""Layers that several families share. A layer of one family is in that family's file."""
