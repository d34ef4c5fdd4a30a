"""cartstore's REST service: Litestar over `cartstore.CartStore`. `cartstore_api.app.create_app(settings)`."""
