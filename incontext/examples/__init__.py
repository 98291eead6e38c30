"""Which files are prompts: in folders, context files and annotations; and how they are opened."""
