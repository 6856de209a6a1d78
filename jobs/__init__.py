"""Jobs: one module each, with `Config` (what `params` may say) and `run(config, ctx)`."""
