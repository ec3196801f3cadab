"""What a network is for: how its outputs become answers, and answers become figures."""
