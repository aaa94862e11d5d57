"""Specimens of Android's view hierarchies in XML, written as `uiautomator dump` and Appium do.

They are not dumps of real devices: the attributes and their order are those that the tools write,
the screens are made up. Each specimen has its canvas and boxes.
"""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

HEAD = "<?xml version='1.0' encoding='UTF-8' standalone='yes' ?>"
APP = "org.example.shop"


def node(bounds: str, *children: str, kind: str = "view.View", **more: str) -> str:
    """Return a node with the attributes that uiautomator writes."""
    values = {"index": "0", "text": "", "resource-id": "", "class": f"android.{kind}"}
    values |= {"package": APP, "content-desc": "", "checkable": "false", "checked": "false"}
    values |= {"clickable": "false", "enabled": "true", "focusable": "false", "focused": "false"}
    values |= {"scrollable": "false", "long-clickable": "false", "password": "false"}
    values |= {"selected": "false", "bounds": bounds}
    values |= {key.replace("_", "-"): value for key, value in more.items()}
    text = " ".join(f"{key}={quoteattr(value)}" for key, value in values.items())
    return f"<node {text}>{''.join(children)}</node>" if children else f"<node {text} />"


def hierarchy(*windows: str, rotation: int = 0) -> str:
    """Return a dump."""
    return f'{HEAD}<hierarchy rotation="{rotation}">{"".join(windows)}</hierarchy>'


SCREEN = "[0,0][1080,2400]"
WHOLE = [0, 0, 1080, 2400]


def specimens() -> dict[str, tuple[bytes, tuple[int, int], list[list[int]]]]:
    """Return each specimen by name, with its canvas and boxes."""
    bar = node("[0,128][1080,296]", node("[42,170][400,254]", text="Sign in & <go>"))
    screen = hierarchy(node(SCREEN, bar, node("[84,500][996,668]", kind="widget.EditText")))
    boxes = [WHOLE, [0, 128, 1080, 296], [42, 170, 400, 254], [84, 500, 996, 668]]
    rows = [
        node(f"[0,{y}][1080,{y + 300}]", node(f"[40,{y + 20}][300,{y + 280}]"))
        for y in (100, 400, 700, 900)
    ]
    scrolled = hierarchy(node(SCREEN, node("[0,300][1080,1000]", *rows, scrollable="true")))
    scrolled_boxes = [
        WHOLE,
        [0, 300, 1080, 1000],
        [0, 300, 1080, 400],
        [40, 300, 300, 380],
        [0, 400, 1080, 700],
        [40, 420, 300, 680],
        [0, 700, 1080, 1000],
        [40, 720, 300, 980],
        [0, 900, 1080, 1000],
        [40, 920, 300, 1000],
    ]
    off = hierarchy(
        node(
            SCREEN,
            node("[0,2300][1080,2600]", node("[0,2450][1080,2600]")),
            node("[1080,0][2160,2400]"),
            node("[-200,50][300,90]"),
        )
    )
    empty = hierarchy(
        node(
            SCREEN,
            node("[0,0][0,0]", node("[10,20][110,220]")),
            node("[0,2400][1080,2300]"),
            node(""),
            "<node />",
        )
    )
    appium = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<hierarchy index="0" class="hierarchy" rotation="0" width="1080" height="2176">'
        f'<android.widget.FrameLayout index="0" package="{APP}" class="android.widget.FrameLayout" '
        'bounds="[0,0][1080,2176]" displayed="true">'
        f'<android.widget.Button package="{APP}" bounds="[100,200][980,330]" displayed="true"/>'
        f'<android.widget.Button package="{APP}" bounds="[0,9][9,99]" displayed="false"/>'
        "</android.widget.FrameLayout></hierarchy>"
    )
    dialog = hierarchy(node("[90,800][990,1600]", node("[500,1400][900,1500]")))
    status = node("[0,0][1080,63]", package="com.android.systemui")
    windows = (
        f'{HEAD}<displays><display id="0"><window index="0" title="Shop" bounds="{SCREEN}">'
        f'<hierarchy rotation="0">{node("[0,63][1080,2400]")}</hierarchy></window></display>'
        "</displays>"
    )
    shell = f"WARNING: linker: unused DT entry\n{screen}UI hierchary dumped to: /dev/tty\n"
    text = screen.replace("Sign in", "登录")
    latin = screen.replace("UTF-8", "ISO-8859-1").replace("Sign in", "S'identifi\xe9")
    size = (1080, 2400)
    return {
        "a screen": (screen.encode(), size, boxes),
        "a scrolled list": (scrolled.encode(), size, scrolled_boxes),
        "views outside the screen": (
            off.encode(),
            size,
            [WHOLE, [0, 2300, 1080, 2400], [0, 50, 300, 90]],
        ),
        "views without area": (empty.encode(), size, [WHOLE, [10, 20, 110, 220]]),
        "page source of Appium": (
            appium.encode(),
            (1080, 2176),
            [[0, 0, 1080, 2176], [100, 200, 980, 330]],
        ),
        "a dialog": (
            dialog.encode(),
            (990, 1600),
            [[90, 800, 990, 1600], [500, 1400, 900, 1500]],
        ),
        "landscape with a status bar": (
            hierarchy(status, node("[0,0][2400,1080]", node("[9,9][99,99]")), rotation=1).encode(),
            (2400, 1080),
            [[0, 0, 1080, 63], [0, 0, 2400, 1080], [9, 9, 99, 99]],
        ),
        "all windows": (windows.encode(), size, [WHOLE, [0, 63, 1080, 2400]]),
        "output of a shell": (shell.encode(), size, boxes),
        "UTF-16 as PowerShell redirects": (text.encode("utf-16"), size, boxes),
        "UTF-8 with a byte-order mark": (text.encode("utf-8-sig"), size, boxes),
        "a declared encoding": (latin.encode("latin-1"), size, boxes),
        "hidden views": (
            hierarchy(
                node(SCREEN, node("[0,0][9,9]", node("[1,1][5,5]"), visible_to_user="false"))
            ).encode(),
            size,
            [WHOLE],
        ),
    }
