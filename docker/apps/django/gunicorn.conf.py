"""How gunicorn serves the application: sync workers (WEB_CONCURRENCY of them), one request and one connection each."""

import os

bind = f"{os.environ.get('HOST', '127.0.0.1')}:{os.environ.get('PORT', '8000')}"
worker_class = "sync"
control_socket_disable = True
