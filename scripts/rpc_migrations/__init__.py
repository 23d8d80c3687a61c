"""Runs SQL migrations on Supabase over HTTPS, each step exactly once.

Data flows one way: settings -> client -> runner -> console. The entry points beside this package only say which step
file they mean.
"""
