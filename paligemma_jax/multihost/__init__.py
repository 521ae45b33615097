"""Several hosts: how they meet, agree, exchange values, stop together and end together."""
