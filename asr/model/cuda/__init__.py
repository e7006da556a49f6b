"""What runs on a GPU in a way of its own: without waits for the device, in the dtype that was asked for, repeatable."""
