"""What is made of finished runs: tables, the web page, the W&B workspace."""
