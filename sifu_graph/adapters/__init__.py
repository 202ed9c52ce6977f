"""A graph in other tools: a language model of `lm_eval`, `llm`, `transformers`; training in `tensorboard`, `mlflow`."""
