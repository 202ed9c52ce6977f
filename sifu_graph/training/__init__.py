"""Training: the loop, one step, the closed form that comes before it, and the figures that it leaves."""
