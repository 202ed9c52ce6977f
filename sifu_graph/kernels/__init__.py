"""The fused kernel (`contest.cpp`): its compilation, its loading and its C interface."""
