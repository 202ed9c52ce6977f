"""A graph where other tools expect a language model: `lm_eval` (lm-evaluation-harness) and `llm_plugin` (llm)."""
