"""Other formats: the released BriLLM code, safetensors, GraphML, scipy, networkx, PyTorch Geometric."""
