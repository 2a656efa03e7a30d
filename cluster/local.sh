#!/usr/bin/env bash
# A cluster on this machine, for practice: a Ray head, worker nodes and an MLflow server, all on loopback.
# Linux only: it tells its own processes from others by what /proc says.
set -euo pipefail

usage() {
    cat <<'EOF'
usage: cluster/local.sh up|status|env|down [options]

  up       start a head, workers and an MLflow server; print how to submit a job
  status   say what is up; exit code 3 unless all of it is
  env      print the variables for clients:  eval "$(cluster/local.sh env)"
  down     end every process that `up` started, and the jobs; runs and MLflow's database stay

  --dir DIR            everything of this cluster lies here (default $DISTMETA_HOME/cluster, ~/.cache/distmeta/cluster);
                       another folder is another cluster
  --workers N          worker nodes (up; default 2)
  --worker-cpus N      CPUs that each worker node offers (up; default 1)
  --head-cpus N        CPUs that the head offers to workers (up; default 0)
  --object-store-mb N  size of each node's object store (up; default 256)

Environment: PYTHON, the interpreter with distmeta installed (default: that of the active virtual environment, or
.venv/bin/python); DISTMETA_HOME and DISTMETA_DATA, which the jobs get as well.
EOF
}

fail() {
    echo "local.sh: $*" >&2
    exit 2
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=${DISTMETA_HOME:-$HOME/.cache/distmeta}
dir=$home/cluster workers=2 worker_cpus=1 head_cpus=0 store_mb=256

[[ $# -gt 0 ]] || { usage >&2; exit 2; }
verb=$1
shift
while [[ $# -gt 0 ]]; do
    option=$1
    case $option in
        -h | --help) usage; exit 0 ;;
        --dir | --workers | --worker-cpus | --head-cpus | --object-store-mb) ;;
        *) fail "unknown option '$option'; see cluster/local.sh --help" ;;
    esac
    [[ $# -gt 1 ]] || fail "$option needs a value"
    value=$2
    shift 2
    if [[ $option == --dir ]]; then
        dir=$value
        continue
    fi
    [[ $value =~ ^[0-9]{1,6}$ ]] || fail "$option: '$value' is not a number"
    case $option in
        --workers) workers=$value ;;
        --worker-cpus) worker_cpus=$value ;;
        --head-cpus) head_cpus=$value ;;
        --object-store-mb) store_mb=$value ;;
    esac
done

# What is recorded: `env` for clients; `pids`, a line "NAME PID" for each process, each the leader of a session;
# `mark`, a value that our processes bear in their environment.
recorded() { [[ ! -f $dir/pids ]] || cat "$dir/pids"; }

# Is PID a process of this cluster, and not a later one with its number?
ours() { [[ -r /proc/$1/environ ]] && tr '\0' '\n' 2>/dev/null <"/proc/$1/environ" | grep -qxF "DISTMETA_CLUSTER=$(cat "$dir/mark")"; }

# All processes of this cluster: those that bear the mark, and those in the session of one that does (Ray overwrites
# the environment of its workers with their titles).
members() {
    [[ -f $dir/mark ]] || return 0
    local mark pid session path
    mark=$(cat "$dir/mark")
    {
        grep -lzsxF "DISTMETA_CLUSTER=$mark" /proc/[0-9]*/environ || true
        while read -r _ session; do
            ps -o pid= -s "$session" | while read -r pid; do
                # A session of ours outlives its leader, and its number is not given away before its last member ends.
                [[ -d /proc/$session ]] && ! ours "$session" || echo "/proc/$pid/environ"
            done
        done < <(recorded)
    } | while IFS=/ read -r _ _ path _; do echo "$path"; done | sort -un | while read -r pid; do
        [[ $(ps -o stat= -p "$pid" || true) == [!Z]* ]] && echo "$pid" || true
    done
}

python_of_user() {
    local candidate found
    for candidate in "${PYTHON:-}" "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" "$root/.venv/bin/python"; do
        [[ -n $candidate ]] || continue
        found=$(command -v "$candidate") || fail "there is no $candidate; run 'make install', or set PYTHON"
        "$found" -c 'import mlflow, ray' 2>/dev/null || fail "$found has no ray and mlflow; set PYTHON to one that has"
        echo "$found"
        return
    done
}

# start NAME COMMAND...: in a session of its own, its output in a log, its id recorded.
start() {
    local name=$1
    shift
    setsid nohup "$@" </dev/null >"$dir/log/$name.log" 2>&1 &
    echo "$name $!" >>"$dir/pids"
    disown # bash need not tell how it ends
}

# wait_for WHAT NAME SECONDS TEST...: until the test passes, or process NAME has ended, or for so long.
wait_for() {
    local what=$1 name=$2 deadline=$((SECONDS + $3)) pid
    shift 3
    pid=$(awk -v name="$name" '$1 == name {print $2}' "$dir/pids")
    until "$@"; do
        if [[ ! -d /proc/$pid ]] || ((SECONDS > deadline)); then
            echo "local.sh: $what did not come up; the end of $dir/log/$name.log:" >&2
            tail -n 15 "$dir/log/$name.log" >&2
            return 1
        fi
        sleep 0.3
    done
}

nodes_are() { [[ $("$python" "$root/cluster/local.py" nodes "$RAY_API_SERVER_ADDRESS") == "$1" ]]; }
mlflow_answers() {
    "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' \
        "$MLFLOW_TRACKING_URI/health" 2>/dev/null
}

up() {
    local i
    [[ -z $(members) ]] || fail "a cluster is up already in $dir; 'down' ends it, --dir DIR starts another"
    ((workers > 0)) || fail "--workers: at least 1"
    ((store_mb >= 75)) || fail "--object-store-mb: at least 75, says Ray"
    python=$(python_of_user)
    mkdir -p "$dir"/{log,runs,mlartifacts}
    for ((i = 0; i <= workers; i++)); do mkdir -p "$dir/ray/$i"; done
    chmod 700 "$dir"
    dir=$(cd "$dir" && pwd)
    read -r -a port < <("$python" "$root/cluster/local.py" ports $((4 + workers + 1)))
    (umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32), end="")' >"$dir/token")
    chmod 600 "$dir/token"
    cat /proc/sys/kernel/random/uuid >"$dir/mark"
    : >"$dir/pids"
    # Whatever goes wrong from here on. (Subshells do not inherit it, as they would a trap on ERR.)
    trap 'trap - EXIT INT TERM; down >/dev/null; exit 1' EXIT INT TERM

    # Ray's sockets lie below its folder, and the paths of sockets are limited to 107 characters.
    local short
    short=$(mktemp -d /tmp/dm-XXXXXX)
    ln -s "$dir/ray" "$short/r"
    echo "$short" >"$dir/short"

    {
        printf 'export RAY_API_SERVER_ADDRESS=%q\n' "http://127.0.0.1:${port[0]}"
        printf 'export RAY_ADDRESS=%q\n' "127.0.0.1:${port[1]}"
        printf 'export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0\n' # 127.0.0.1 means loopback, for Ray's clients as well
        printf 'export RAY_AUTH_MODE=token\n'
        printf 'export RAY_AUTH_TOKEN_PATH=%q\n' "$dir/token"
        printf 'export MLFLOW_TRACKING_URI=%q\n' "http://127.0.0.1:${port[2]}"
    } >"$dir/env"
    # shellcheck disable=SC1091
    source "$dir/env"
    unset RAY_ADDRESS RAY_AUTH_TOKEN
    export DISTMETA_CLUSTER DISTMETA_HOME=$home DISTMETA_RUNS=$dir/runs
    DISTMETA_CLUSTER=$(cat "$dir/mark")
    export PATH="$(dirname "$python"):$PATH" PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    export OMP_NUM_THREADS=1 RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
    export RAY_worker_niceness=0 # Ray runs workers at a lower priority; here they are what the machine is for

    start mlflow env MLFLOW_BACKEND_STORE_URI="sqlite:///$dir/mlflow.db" MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
        "$python" -m mlflow server --host 127.0.0.1 --port "${port[2]}" --workers 1 \
        --artifacts-destination "$dir/mlartifacts"
    local ray=("$python" "$root/cluster/local.py" ray start --block --node-ip-address=127.0.0.1 --num-gpus=0
        "--object-store-memory=$((store_mb << 20))")
    start head "${ray[@]}" --head "--port=${port[1]}" --dashboard-host=127.0.0.1 "--dashboard-port=${port[0]}" \
        "--ray-client-server-port=${port[3]}" "--dashboard-agent-listen-port=${port[4]}" "--num-cpus=$head_cpus" \
        --temp-dir="$short/r/0" --disable-usage-stats
    wait_for "the head" head 120 nodes_are 1
    for ((i = 1; i <= workers; i++)); do
        # Each node in a folder of its own: nodes delete the working folders of jobs when they are done with them.
        start "worker-$i" "${ray[@]}" "--address=127.0.0.1:${port[1]}" "--num-cpus=$worker_cpus" \
            "--dashboard-agent-listen-port=${port[4 + i]}" --temp-dir="$short/r/$i"
    done
    for ((i = 1; i <= workers; i++)); do
        wait_for "a worker" "worker-$i" 120 nodes_are $((1 + workers))
    done
    wait_for "MLflow" mlflow 120 mlflow_answers
    trap - EXIT INT TERM

    local flag=
    [[ $dir == "$home/cluster" ]] || flag=" --dir $(printf %q "$dir")"
    cat <<EOF
a head, $workers workers and an MLflow server are up in $dir
  eval "\$(cluster/local.sh env$flag)"     # the token, and where MLflow is
  distmeta submit jobs/sinusoid.py:maml --address $RAY_API_SERVER_ADDRESS --follow
  MLflow         $MLFLOW_TRACKING_URI
  Ray dashboard  $RAY_API_SERVER_ADDRESS  (asks for the token in $dir/token)
  cluster/local.sh down$flag
EOF
}

status() {
    [[ -s $dir/pids ]] || { echo "nothing is up in $dir"; exit 3; }
    local name pid code=0
    while read -r name pid; do
        if ours "$pid"; then
            echo "$name: up (process $pid)"
        else
            echo "$name: down; see $dir/log/$name.log"
            code=3
        fi
    done < <(recorded)
    # shellcheck disable=SC1091
    source "$dir/env"
    python=$(python_of_user)
    local alive all
    alive=$("$python" "$root/cluster/local.py" nodes "$RAY_API_SERVER_ADDRESS")
    all=$(recorded | grep -cv '^mlflow ')
    ((alive == all)) || code=3
    echo "nodes: $alive of $all alive"
    echo "jobs:  $RAY_API_SERVER_ADDRESS"
    mlflow_answers || { echo "mlflow: does not answer" && code=3; }
    echo "runs:  $MLFLOW_TRACKING_URI"
    exit "$code"
}

print_env() {
    [[ -n $(members) ]] || fail "nothing is up in $dir; start it with: cluster/local.sh up"
    cat "$dir/env"
}

# All are asked at once and given ten seconds; what is left then, is ended.
down() {
    local pid deadline=$((SECONDS + 10)) count=0
    for pid in $(members); do
        kill -TERM "$pid" 2>/dev/null && count=$((count + 1)) || true
    done
    while [[ -n $(members) ]]; do
        if ((SECONDS >= deadline)); then
            for pid in $(members); do kill -KILL "$pid" 2>/dev/null || true; done
        fi
        sleep 0.3
    done
    if [[ -f $dir/short ]]; then
        rm -f "$(cat "$dir/short")/r"
        rmdir "$(cat "$dir/short")" 2>/dev/null || true
    fi
    rm -f "$dir"/{pids,mark,short,env,token}
    echo "ended $count processes; runs, logs and MLflow's database stay in $dir"
}

[[ -d /proc/self ]] || fail "needs Linux (/proc)"
case $verb in
    up | status | down) "$verb" ;;
    env) print_env ;;
    -h | --help | help) usage ;;
    *) fail "unknown command '$verb'; allowed: up, status, env, down" ;;
esac
