from flux.cli.app import main

main()
