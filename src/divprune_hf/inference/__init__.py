"""A pruned model in use: loading, budgets, questions about pictures and videos."""
