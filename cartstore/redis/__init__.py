"""The engine: Redis or Valkey. Owns keys, scripts, replies and connections; nothing outside this folder
sees a key name, a reply tag or a redis-py exception."""
