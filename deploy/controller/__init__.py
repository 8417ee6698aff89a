"""The release controller: its loop, what operators ask of it, and what it tells the world."""
