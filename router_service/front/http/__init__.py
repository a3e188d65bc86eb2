"""What every HTTP answer of the Front shares: guard, bodies, authentication, events, assets."""
