"""Time and memory: training steps, starts, exports, merges, completion steps and contrastive steps."""
