"""How fast this machine transcribes and trains, and where the time goes."""
