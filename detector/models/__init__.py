"""The networks: blocks, the compact detector, ultralytics' networks, their loss and their weights."""
