"""A Conformer with depthwise subsampling: layers of attention, convolution and feed-forward parts."""
