"""Into training loops of other people: `watch` for any loop, ultralytics' trainer, Lightning's."""
