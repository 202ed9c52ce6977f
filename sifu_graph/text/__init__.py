"""Text and what is counted in it: corpora, tokenizers, encoded token files, batches, pair counts, Kneser-Ney models."""
