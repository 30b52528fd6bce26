//! Listening: two ports, one thread, connections that can be reset.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::{Behaviour, State, answer};

/// What the handle asks of the server.
pub(super) enum Command {
    Down,
    Up,
    End,
}

type Asked = (Command, mpsc::Sender<()>);

/// Starts the server's thread and returns once both ports answer.
pub(super) fn start(behaviour: Behaviour) -> (Arc<State>, UnboundedSender<Asked>, JoinHandle<()>) {
    let (commands, asked) = unbounded_channel();
    let (ready, wait) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let main = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            let storage = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            let state = Arc::new(State {
                address: main.local_addr().expect("an address"),
                storage: storage.local_addr().expect("an address"),
                behaviour: Mutex::new(behaviour),
                faults: Mutex::default(),
                repositories: Mutex::default(),
                requests: Mutex::default(),
                tokens: Mutex::default(),
                signed: Mutex::default(),
            });
            ready.send(Arc::clone(&state)).expect("somebody waits");
            serve(state, main, storage, asked).await;
        });
    });
    (wait.recv().expect("the server starts"), commands, thread)
}

async fn serve(
    state: Arc<State>,
    main: TcpListener,
    storage: TcpListener,
    mut asked: UnboundedReceiver<Asked>,
) {
    let addresses = (state.address, state.storage);
    let mut listening = Some((main, storage));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some((stream, at_storage)) = accept(listening.as_ref()) => {
                connections.spawn(connection(Arc::clone(&state), stream, at_storage));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            command = asked.recv() => match command {
                Some((Command::Down, done)) => {
                    listening = None;
                    connections.shutdown().await;
                    let _ = done.send(());
                }
                Some((Command::Up, done)) => {
                    if listening.is_none() {
                        listening = Some((listen(addresses.0).await, listen(addresses.1).await));
                    }
                    let _ = done.send(());
                }
                Some((Command::End, _)) | None => return,
            },
        }
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    // Somebody else may hold the port for a moment as the near end of a connection.
    for _ in 0..100 {
        if let Ok(listener) = TcpListener::bind(address).await {
            return listener;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{address} was taken by somebody else");
}

async fn accept(listening: Option<&(TcpListener, TcpListener)>) -> Option<(TcpStream, bool)> {
    let Some((main, storage)) = listening else { return std::future::pending().await };
    tokio::select! {
        accepted = main.accept() => accepted.ok().map(|(stream, _)| (stream, false)),
        accepted = storage.accept() => accepted.ok().map(|(stream, _)| (stream, true)),
    }
}

async fn connection(state: Arc<State>, stream: TcpStream, at_storage: bool) {
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Resettable { stream, reset: Arc::clone(&reset) });
    let service = service_fn(move |request| {
        answer::answer(Arc::clone(&state), Arc::clone(&reset), at_storage, request)
    });
    // An error here is a fault that was asked for, or a client that went away.
    let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(io, service).await;
}

/// A connection that is reset rather than closed if somebody said so.
struct Resettable {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Resettable {
    fn drop(&mut self) {
        if self.reset.load(Ordering::SeqCst) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::SeqCst) {
            // No FIN: what follows is a reset.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
