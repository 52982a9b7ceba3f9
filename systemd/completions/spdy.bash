# Completion of spdy-agent and spdy-proxy for bash: what --help of the installed program says.

_spdy() {
    local current=$2 previous=$3 word help first short commands path=()
    help=$("$1" --help 2>/dev/null) || return 0
    # Down to the command that is being typed: `spdy-proxy key use`.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word == [a-z]* && $help == *$'\nCommands:'*$'\n  '"$word "* ]] || continue
        path+=("$word")
        help=$("$1" "${path[@]}" --help 2>/dev/null) || return 0
    done
    first=${help%%$'\n'*}
    # A flag that takes a value stands there as [--ca <file>], by its short name if it has one.
    [[ $help =~ $'\n  '(-.)", $previous"[^a-z-] ]] && short=${BASH_REMATCH[1]}
    word=
    COMPREPLY=()
    if [[ $previous == -* && $first == *"[${short:-$previous} <"* ]]; then
        case $previous in
            --log) word='error warn info debug' ;;
            --access) word='password open' ;;
            *) compopt -o default ;;
        esac
    elif [[ $current == -* ]]; then
        word=$(sed -nE 's/^  (-.), (--[a-z-]+).*/\1 \2/p; s/^  (--[a-z-]+).*/\1/p' <<<"$help")
    else
        commands=$(sed '1,/^Commands:/d' <<<"$help")
        word=$(sed -nE 's/^  ([a-z]+) .*/\1/p' <<<"$commands")
        [[ $first == *'<file>' ]] && compopt -o default
    fi
    mapfile -t COMPREPLY < <(compgen -W "$word" -- "$current")
}
complete -F _spdy spdy-agent spdy-proxy
