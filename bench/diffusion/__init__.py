"""Noise schedules and samplers: what is done with a denoiser, whichever network it is."""
