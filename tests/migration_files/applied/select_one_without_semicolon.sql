select set_config('app.note', 'kept for this session', false)
