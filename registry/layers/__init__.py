"""Blocks that several families share. A block used by one family stands in that family's file."""
