"""Helpers of the tests: tiny models, references to compare with, checkpoint folders, Hubs on the loopback interface."""
