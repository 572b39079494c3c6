"""The console command , one file for each group of commands."""
