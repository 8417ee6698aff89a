"""One file of settings for every role: hearken.toml, what it may hold, and where each value comes from.

The settings classes are the only list of what can be set. A field's type says what the file may give it, and
the text beside the type is its documentation:

    port: Annotated[int, "port to listen on"] = 8000

From these come the file's check (`file`), the settings objects (`resolve`), `hearken config show` (`show`),
docs/settings.md (`docs`), the chart's schema (`schema`) and the command line's flags
(`hearken.service.flags`). A field that is added to a class is in all of them.
"""
