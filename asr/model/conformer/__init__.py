"""A Conformer or FastConformer: layers of attention, convolution and feed-forward parts."""
