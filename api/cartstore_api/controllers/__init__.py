"""One controller per resource. Each names its routes, reads what a request says and tells what came of it."""
