"""Read and judge a checkpoint: its files, weights, configs and family, in a folder or on the Hub."""
