from geventws.compat import install_as_geventwebsocket

install_as_geventwebsocket(max_message_size=10)

worker_class = "geventwebsocket.gunicorn.workers.GeventWebSocketWorker"
bind = "127.0.0.1:0"
accesslog = "-"
graceful_timeout = 5
