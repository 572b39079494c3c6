"""The console command "divprune-hf", one file for each group of commands."""
