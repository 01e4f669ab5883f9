"""One module a backend; `fastsce.dispatch` imports them by name, when first asked for."""
