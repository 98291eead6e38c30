"""Few-shot scores: which episodes are asked, what is answered, and how good the answers are."""
