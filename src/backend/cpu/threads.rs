//! The engine's threads: a parallel loop whose tasks are claimed one at a time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crate::util::cancel::Cancel;
use crate::util::error::{Error, Result, error};
use crate::util::panic;
use crate::util::thread::spawn;

/// How often an idle thread looks for work before it sleeps: some tens of microseconds, the gap between two
/// operations of a model.
const SPINS: usize = 2000;

/// A fixed number of threads, the caller included. Any number of callers may use it at once.
pub(super) struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    /// Jobs in the queue, for spinning without the lock.
    pending: AtomicUsize,
    workers: usize,
    /// Workers that the processors have room for beside a caller. More threads than processors take turns, and each turn
    /// is a loss: they stay asleep.
    useful: usize,
}

struct Queue {
    jobs: Vec<Arc<Job>>,
    /// Workers that wait for `wake`.
    sleeping: usize,
    shutdown: bool,
}

/// One parallel loop.
struct Job {
    /// The loop's body, `body(task, slot)`. It lives on the stack of [`ThreadPool::run`].
    body: *const (dyn Fn(usize, usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    finished: AtomicUsize,
    slots: AtomicUsize,
    most_slots: usize,
    cancel: Cancel,
    panicked: AtomicBool,
    panic: Mutex<Option<Error>>,
    done: Mutex<bool>,
    wake: Condvar,
}

// SAFETY: `body` points to a `Sync` closure and is called only while its owner waits in `ThreadPool::run`;
// every other field is shared by design.
unsafe impl Send for Job {}
// SAFETY: as above.
unsafe impl Sync for Job {}

impl ThreadPool {
    /// A pool of `threads` threads: the caller of [`ThreadPool::run`] and `threads - 1` workers. No more than
    /// `processors` of them take part in a loop.
    pub(super) fn new(threads: usize, processors: usize) -> Result<Self> {
        let workers = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { jobs: Vec::new(), sleeping: 0, shutdown: false }),
            wake: Condvar::new(),
            pending: AtomicUsize::new(0),
            workers,
            useful: workers.min(processors.saturating_sub(1)),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = spawn(format!("diffusion-{index}"), move || shared.work())
                .map_err(|e| error!(OutOfMemory, "thread {index} of {threads} did not start: {e}"))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// All threads, the caller included.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Most threads that take part in one loop, the caller included: what work is cut for, and how many need working
    /// memory. To cut it for threads that no processor runs would only repeat what every task does.
    pub(super) fn concurrency(&self) -> usize {
        self.shared.useful + 1
    }

    /// Calls `body(task, slot)` once for each `task` below `tasks`, from several threads. `slot` is below
    /// [`ThreadPool::concurrency`] and never the same on two threads at a time, so it can index scratch memory.
    ///
    /// Fails with `Cancelled` once `cancel` is set, and with `Internal` when a task panicked; tasks not yet
    /// begun are then skipped.
    pub(super) fn run(
        &self,
        tasks: usize,
        cancel: &Cancel,
        body: impl Fn(usize, usize) + Sync,
    ) -> Result<()> {
        let body: &(dyn Fn(usize, usize) + Sync) = &body;
        // SAFETY: only the lifetime changes. The pointer is used by `Job::work` for claimed tasks alone, and this
        // function returns after the last of them has finished, so `body` outlives every use.
        let body = unsafe {
            std::mem::transmute::<
                *const (dyn Fn(usize, usize) + Sync + '_),
                *const (dyn Fn(usize, usize) + Sync + 'static),
            >(body)
        };
        let job = Arc::new(Job {
            body,
            tasks,
            next: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            slots: AtomicUsize::new(0),
            most_slots: self.concurrency(),
            cancel: cancel.clone(),
            panicked: AtomicBool::new(false),
            panic: Mutex::new(None),
            done: Mutex::new(tasks == 0),
            wake: Condvar::new(),
        });
        let shared = tasks > 1 && self.shared.useful > 0;
        if shared {
            self.shared.push(&job);
        }
        job.work();
        if shared {
            self.shared.remove(&job);
        }
        job.wait();
        if let Some(error) = lock(&job.panic).take() {
            return Err(error);
        }
        cancel.check()
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        lock(&self.shared.queue).shutdown = true;
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // The last owner may be dropped by a worker, which must not wait for itself; it ends by itself.
            if worker.thread().id() != thread::current().id() {
                let _ = worker.join();
            }
        }
    }
}

impl Shared {
    fn push(&self, job: &Arc<Job>) {
        let mut queue = lock(&self.queue);
        queue.jobs.push(Arc::clone(job));
        self.pending.store(queue.jobs.len(), Ordering::Relaxed);
        let sleeping = queue.sleeping;
        drop(queue);
        // Those awake find the job by themselves, at once or after the job they are at.
        let wanted = to_wake(job.tasks, self.useful, self.workers, sleeping);
        if wanted == sleeping && sleeping > 1 {
            self.wake.notify_all();
        } else {
            (0..wanted).for_each(|_| self.wake.notify_one());
        }
    }

    fn remove(&self, job: &Arc<Job>) {
        let mut queue = lock(&self.queue);
        queue.jobs.retain(|other| !Arc::ptr_eq(other, job));
        self.pending.store(queue.jobs.len(), Ordering::Relaxed);
    }

    /// A worker's life.
    fn work(&self) {
        while let Some(job) = self.next_job() {
            job.work();
            self.remove(&job);
        }
    }

    /// Waits for a job, and picks the one with the fewest threads; `None` at shutdown.
    fn next_job(&self) -> Option<Arc<Job>> {
        // Relaxed: only a hint; the queue itself is read under its lock.
        for _ in 0..SPINS {
            if self.pending.load(Ordering::Relaxed) > 0 {
                break;
            }
            std::hint::spin_loop();
        }
        let mut queue = lock(&self.queue);
        loop {
            if queue.shutdown {
                return None;
            }
            if let Some(job) = queue.jobs.iter().min_by_key(|job| job.slots.load(Ordering::Relaxed)) {
                return Some(Arc::clone(job));
            }
            queue.sleeping += 1;
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.sleeping -= 1;
        }
    }
}

/// The part, at most `most` and a multiple of `step`, that `len` is cut into with the least work for the thread that has
/// most of it: `rows` such cuts lie side by side, and a task takes the time of its part and `extra` more.
pub(super) fn even_part(
    threads: usize,
    rows: usize,
    len: usize,
    most: usize,
    step: usize,
    extra: usize,
) -> usize {
    let time = |part: usize| (rows * len.div_ceil(part)).div_ceil(threads) * (part + extra);
    // Of equals the first: the largest.
    (1..=most / step).rev().map(|steps| steps * step).min_by_key(|&part| time(part)).unwrap_or(most)
}

/// How many of the `sleeping` ones of `workers` to wake for a job of `tasks`, one of which the caller takes, so that at
/// most `useful` are awake.
fn to_wake(tasks: usize, useful: usize, workers: usize, sleeping: usize) -> usize {
    let awake = workers.saturating_sub(sleeping);
    useful.min(tasks.saturating_sub(1)).saturating_sub(awake).min(sleeping)
}

impl Job {
    /// Claims and runs tasks until none is left; nothing if as many threads as may are at it. Should that be the
    /// caller, it waits for them.
    fn work(&self) {
        let slot = self.slots.fetch_add(1, Ordering::Relaxed);
        if slot >= self.most_slots {
            return;
        }
        loop {
            // Relaxed: the counter hands out numbers; the queue's lock published what the tasks read.
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return;
            }
            if !self.panicked.load(Ordering::Relaxed) && !self.cancel.is_cancelled() {
                // SAFETY: this task is claimed and not finished, so `ThreadPool::run` has not returned and the
                // closure is alive.
                let body = unsafe { &*self.body };
                if let Err(error) = panic::catch(|| body(task, slot)) {
                    lock(&self.panic).get_or_insert(error);
                    self.panicked.store(true, Ordering::Relaxed);
                }
            }
            // AcqRel: the last one to finish, and whoever then reads `finished`, sees what every task wrote.
            if self.finished.fetch_add(1, Ordering::AcqRel) + 1 == self.tasks {
                *lock(&self.done) = true;
                self.wake.notify_all();
            }
        }
    }

    /// Waits until every task has finished.
    fn wait(&self) {
        for _ in 0..SPINS {
            if self.finished.load(Ordering::Acquire) == self.tasks {
                return;
            }
            std::hint::spin_loop();
        }
        let mut done = lock(&self.done);
        while !*done {
            done = self.wake.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Locks, whether or not another thread panicked: nothing under these locks is left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::util::error::Status;
    use std::sync::atomic::AtomicU32;
    use std::time::{Duration, Instant};

    #[test]
    fn every_task_runs_once_and_slots_are_exclusive() {
        for (threads, processors) in [(1, 1), (2, 2), (5, 9), (5, 5), (5, 2), (64, 3), (4, 1)] {
            let pool = ThreadPool::new(threads, processors).unwrap();
            assert_eq!((pool.threads(), pool.concurrency()), (threads, threads.min(processors)));
            for tasks in [0, 1, 2, 7, 1000] {
                let counts: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                let busy: Vec<AtomicBool> = (0..pool.concurrency()).map(|_| AtomicBool::new(false)).collect();
                pool.run(tasks, &Cancel::default(), |task, slot| {
                    assert!(!busy[slot].swap(true, Ordering::SeqCst), "slot {slot} is used twice");
                    counts[task].fetch_add(1, Ordering::Relaxed);
                    busy[slot].store(false, Ordering::SeqCst);
                })
                .unwrap();
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn no_more_threads_take_part_than_there_are_processors() {
        for processors in [1, 2, 3] {
            // New workers look for a job before they first sleep, so here all of them come.
            let pool = ThreadPool::new(16, processors).unwrap();
            let largest = AtomicUsize::new(0);
            let done = AtomicUsize::new(0);
            pool.run(40, &Cancel::default(), |_, slot| {
                thread::sleep(Duration::from_millis(1));
                largest.fetch_max(slot, Ordering::Relaxed);
                done.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert!(largest.into_inner() < processors);
            assert_eq!(done.into_inner(), 40);
        }
    }

    #[test]
    fn parts_fill_the_rounds_of_all_threads() {
        // 29 parts of 18 by 5 are 145 tasks, so that 64 threads take three rounds; 37 of 14 fill them.
        assert_eq!(even_part(64, 5, 512, 18, 1, 4), 14);
        // Nothing to gain: parts that fit, threads that have enough, a part of one step.
        assert_eq!(even_part(64, 8, 128, 16, 1, 4), 16);
        assert_eq!(even_part(2, 10, 512, 64, 1, 4), 64);
        assert_eq!(even_part(64, 10, 3, 6, 6, 4), 6);
        assert_eq!(even_part(64, 0, 0, 1, 1, 4), 1);
        // Whole steps only.
        assert_eq!(even_part(64, 10, 960, 192, 12, 12) % 12, 0);
    }

    #[test]
    fn no_more_workers_are_woken_than_a_job_and_the_processors_have_use_for() {
        // Enough processors: one a task beside the caller's, all of them at the most.
        assert_eq!([0, 1, 2, 3, 8, 100].map(|tasks| to_wake(tasks, 7, 7, 7)), [0, 0, 1, 2, 7, 7]);
        // Those awake are counted in.
        assert_eq!([7, 5, 2, 0].map(|sleeping| to_wake(5, 7, 7, sleeping)), [4, 2, 0, 0]);
        // 64 threads on two processors, then on one.
        assert_eq!([63, 62, 0].map(|sleeping| to_wake(100, 1, 63, sleeping)), [1, 0, 0]);
        assert_eq!(to_wake(100, 0, 63, 63), 0);
    }

    #[test]
    fn a_panic_becomes_an_error_and_the_pool_stays_usable() {
        for threads in [1, 3] {
            let pool = ThreadPool::new(threads, threads).unwrap();
            let error = pool
                .run(50, &Cancel::default(), |task, _| assert!(task != 20, "planted in task {task}"))
                .unwrap_err();
            assert_eq!(error.status(), Status::Internal);
            assert!(error.message().starts_with("panic"), "{error}");
            assert!(error.message().ends_with(": planted in task 20"), "{error}");
            pool.run(50, &Cancel::default(), |_, _| ()).unwrap();
        }
    }

    #[test]
    fn cancel_stops_between_tasks() {
        for threads in [1, 2] {
            let pool = ThreadPool::new(threads, threads).unwrap();
            let cancel = Cancel::default();
            let begun = AtomicUsize::new(0);
            let start = Instant::now();
            let error = pool
                .run(10_000, &cancel, |task, _| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    if task == 3 {
                        cancel.cancel();
                    }
                    thread::sleep(Duration::from_millis(1));
                })
                .unwrap_err();
            assert_eq!(error.status(), Status::Cancelled);
            assert!(begun.load(Ordering::Relaxed) < 20 && start.elapsed() < Duration::from_secs(5));
        }
    }

    #[test]
    fn several_callers_and_nested_loops_work() {
        let pool = ThreadPool::new(3, 3).unwrap();
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(10, &Cancel::default(), |_, _| {
                            pool.run(3, &Cancel::default(), |task, _| {
                                sum.fetch_add(task, Ordering::Relaxed);
                            })
                            .unwrap();
                        })
                        .unwrap();
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 50 * 10 * 3);
    }

    #[test]
    fn the_last_owner_may_go_on_a_worker() {
        for _ in 0..20 {
            let pool = Arc::new(ThreadPool::new(4, 4).unwrap());
            let owners = Mutex::new(vec![Arc::clone(&pool); 64]);
            // Leak nothing: whichever thread pops the last clone after `pool` is gone drops the pool.
            let inner = Arc::clone(&pool);
            drop(pool);
            let handle = thread::spawn(move || {
                inner
                    .run(64, &Cancel::default(), |_, _| {
                        let owner = lock(&owners).pop();
                        thread::sleep(Duration::from_micros(50));
                        drop(owner);
                    })
                    .unwrap();
            });
            handle.join().unwrap();
        }
    }
}
