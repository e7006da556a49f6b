"""What a training run is made of: ``asr.train`` puts the parts together."""
